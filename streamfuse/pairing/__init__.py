"""Which infrared frame belongs to which visible frame, and when."""
