"""What passes between the supervising and the working processes."""
