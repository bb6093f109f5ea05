"""How large a model is and whether its training step fits a device, without that device."""
