"""What is between the network and the application: the limits on connections and on the requests that they carry."""
