"""The encoder and the predictor: linen modules over plain parameter trees."""
