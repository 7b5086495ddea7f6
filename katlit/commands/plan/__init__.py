"""`katlit plan`: the memory of one device, added up."""
