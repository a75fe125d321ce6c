"""Standard sets of questions: read as the field publishes them, scored as the field scores them."""
