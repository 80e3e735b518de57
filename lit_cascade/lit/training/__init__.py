"""Training of one stage: module, losses, teacher, and training that resumes."""
