//! What two nodes tell each other, through the controller, to find ways to each other.
