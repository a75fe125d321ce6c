"""Wire messages, topics, limits and errors: what every process of Latentbus agrees on.

No event loop, no model and no MQTT client is imported here.
"""
