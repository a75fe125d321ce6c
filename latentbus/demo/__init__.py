"""The whole system on one machine: private broker, rendered or own video, a site on a thin uplink, workers."""
