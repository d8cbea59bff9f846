OPENQASM 2.0;
include "qelib1.inc";
qreg q[2];
creg c[3];
if(c==0) x q[0];
if(c==5) x q[1];
if(c==9) h q[1];
measure q[0] -> c[2];
measure q[1] -> c[0];
