"""Jobs of a cluster's scheduler: submitting, following, cancelling."""
