"""One framework a file. All read alike: read the cookies, begin, call the application, commit, write the answer."""
