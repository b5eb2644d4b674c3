"""Where events and videos come from: the landing folder, readers of public sets, a simulated platform with known truth."""
