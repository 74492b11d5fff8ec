"""What a run trains: a student with its teachers, and the loss of a batch."""
