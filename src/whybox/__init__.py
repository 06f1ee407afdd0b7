"""whybox: why did the detector draw this box?"""
