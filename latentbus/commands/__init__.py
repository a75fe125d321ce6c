"""The commands of ``latentbus``, one module a command or group of commands: options in, work elsewhere."""
