"""What several tests share: networks and inputs made up from printed seeds, and ways to run them."""
