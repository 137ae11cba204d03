"""What stands between the network and the application: the limits of connections and of the requests on them."""
