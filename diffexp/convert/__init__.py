"""Import models of other libraries and export to them. Reading executes nothing."""
