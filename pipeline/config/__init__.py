"""What the rooms above are configured by: settings, their YAML file, and logs."""
