"""What models under comparison are fed: what each input is for, and random values for it."""
