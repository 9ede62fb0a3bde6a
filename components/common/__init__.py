"""What every room of Ferry stands on: errors, crash-safe files, parameters, progress."""
