"""Why a gateway answers 503, and what to do about it: checks that look at one thing each, and say the cure."""
