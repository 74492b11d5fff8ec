"""What is trained: a student, its teachers, and the loss of a batch."""
