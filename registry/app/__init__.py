"""The application: every service joined once, every room's views over them."""
