OPENQASM 2.0;
// U and CX need no include.
qreg a[2];
qreg b[1];
U(pi/2,0,pi) a[0];
CX a[0],a[1];
CX a[1],b[0];
U(0,0,pi/4) b;
