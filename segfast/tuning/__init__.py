"""What segfast.tune does: candidates are searched, each measured in a process of its own, and shown."""
