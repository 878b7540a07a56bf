"""What gradients are held against: cases, and the ways to compute what is right."""
