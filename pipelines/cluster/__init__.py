"""The cluster side: how stages become pods."""
