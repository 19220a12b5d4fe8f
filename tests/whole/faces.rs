//! One model behind all faces: random writes and deletes go in through REST and Flight, and REST, Flight and the
//! engine give back what a plain ordered map holds.
