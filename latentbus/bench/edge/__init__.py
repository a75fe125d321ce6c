"""``latentbus bench edge``: what an edge takes, beside an upload of the picture and the whole model on the device."""
