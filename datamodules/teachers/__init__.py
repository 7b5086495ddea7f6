"""What stage 1 reads of its teachers."""
