/* Stands in for libcuda.so.1: that there is one is all that is asked. */
int coppice_loadable_driver = 1;
