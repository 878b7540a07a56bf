"""Networks and models made up for tests, most of them from a printed seed."""
