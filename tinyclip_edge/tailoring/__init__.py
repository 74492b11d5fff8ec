"""A student for a folder of unlabelled pictures, a list of labels and a budget."""
