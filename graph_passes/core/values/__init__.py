"""What a value is made of, what it is where it is constant, and where its elements and samples lie."""
