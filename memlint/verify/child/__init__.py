"""The process that runs the user's script: ``python -m memlint.verify.child PLAN``. Everything here may need torch."""
