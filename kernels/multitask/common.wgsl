// The first `count` words of `rows` hold each row's task, or one of these; the next `count` its label; then one word: how many
// rows have a bad task.
// Left out: no task, or its label is to be ignored.
const NO_TASK: u32 = 0xffffffffu;
// NaN, and of no task.
const BAD_TASK: u32 = 0xfffffffeu;
// NaN, in its task.
const BAD_LABEL: u32 = 0xffffffffu;

fn is_nan_bits(bits: u32) -> bool { return (bits & 0x7fffffffu) > 0x7f800000u; }
