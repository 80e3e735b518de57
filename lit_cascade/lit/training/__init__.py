"""Training of one stage: the module, its losses, a teacher, and runs that can be resumed."""
