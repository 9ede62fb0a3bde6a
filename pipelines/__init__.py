"""What runs when: one module per pipeline, the runner of this machine, and the ``ferry`` command."""
