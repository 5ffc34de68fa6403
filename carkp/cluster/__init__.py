"""Jobs of a cluster's scheduler: submitted, followed, cancelled."""
