"""The connection to the broker: types in ``base``, MQTT 5 in ``mqtt``."""
