"""The numeric core: TCD, NPD, backbone, fusion and losses. Imports torch and the standard library only.

Read in the order of the data: settings, content, schedule, layers, tokeniser, guidance, tcd, salience, fusion, backbone,
npd, mealrec (the module), losses. Equations are numbered as sections of the design's model specification, which is a
reconstruction after the idea of arXiv 2603.01926; it does not claim to reproduce that paper's tables.

Shape letters: B viewers, L history positions, N videos of the catalogue, n videos in hand, F frames (or title tokens),
D width of the model.
"""
