"""What a test runs beside itself: programs, examples, the code in documents."""
