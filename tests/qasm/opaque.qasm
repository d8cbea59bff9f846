OPENQASM 2.0;
include "qelib1.inc";
opaque magic(a,b) x,y;
opaque more x;
qreg q[1];
h q;
