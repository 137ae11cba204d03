"""What a sweep says, as a picture in SVG, in PNG and in characters: each setting's score beside what it costs."""
