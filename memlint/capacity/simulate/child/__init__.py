"""The process in which the user's script runs on a device that is not there."""
