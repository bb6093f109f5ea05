"""What is known of torch and the libraries around it, as tables of names; facts are checked against torch 2.13."""
