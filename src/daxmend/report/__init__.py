"""What people look at: strategies compared, and a page on one target."""
