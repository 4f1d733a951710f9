"""The device's half: speech to features (`encoder`), features to a cloud (`client`), both joined (`pipeline`)."""
