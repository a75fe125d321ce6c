"""Logs without what must not leave a site."""
