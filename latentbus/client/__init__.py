"""The client side: a question asked, its answers followed."""
