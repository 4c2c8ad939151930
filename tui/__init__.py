"""What people look at; its own process. Nothing is built here yet."""
