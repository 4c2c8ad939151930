"""Finding, trusting and reaching peers. Nothing is built here yet."""
